// Package interval answers "which of these key ranges touch that key (or that range)?" without looking at the
// others. The watch hub asks it for every event, the check of a transaction for every put in it.
//
// # Types
//
// A Range is a set of consecutive keys in the order of bytes.Compare: one key (Point), begin inclusive to end
// exclusive (Span), or everything from a key on (From). Of builds one from etcd's pair of request fields, where an
// empty end means a point and "\x00" means no end. A Tree holds ranges with a value each; the same range may be
// inserted many times and each insertion has its own Handle.
//
// # How
//
// An AVL tree ordered by (begin, end, order of insertion), each node knowing the greatest end below it, so that a
// visit costs O(log n + hits). Nothing is random: two trees that saw the same calls visit in the same order.
//
// # Concurrency
//
// A Tree has one owner. Visits may run side by side with each other, never with Insert or Delete; the function given
// to a visit must not change the tree it is visiting.
//
// # Invariants
//
// Heights of siblings differ by at most one; a node's greatest end is that of its subtree. Tests check both after
// every step of random histories.
//
// # Refused
//
// A Range never matches when it is empty (begin >= end); it may be inserted and deleted all the same. Deleting a
// handle twice, or one of another tree, reports false.
package interval
