// Package dns is the command "muster dns": a DNS server of its own process, beside an
// application or on a host, fed by one watch on the store. Flags and wiring only; what is
// answered is package dnsserver's.
package dns
