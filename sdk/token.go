package sdk

import "fmt"

// Token fences: of two holders of one lock or leadership, the later has the greater token. Pass it on with every
// request to what the lock protects, and let that refuse a token less than one it has seen.
//
// Revision is the create revision of the holder's key, which only rises while a store lives and over a restore that
// raises the revision, as Muster's does. Epoch is for those that don't: the operator raises it.
type Token struct{ Epoch, Revision int64 }

// Less orders tokens by epoch, then revision.
func (t Token) Less(u Token) bool {
	return t.Epoch < u.Epoch || t.Epoch == u.Epoch && t.Revision < u.Revision
}

func (t Token) String() string { return fmt.Sprintf("%d.%d", t.Epoch, t.Revision) }
