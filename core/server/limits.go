package server

// defaultMaxConns bounds client connections where descriptors don't.
const defaultMaxConns = 1 << 16
