//go:build !unix

package server

func maxConns() int { return defaultMaxConns }
