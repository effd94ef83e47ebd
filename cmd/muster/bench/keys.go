package bench

import (
	"math/rand/v2"
	"strings"
	"sync/atomic"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/protowire"
)

// keyspace is the keys that a load uses: numbers in decimal, with leading zeros, so that
// they sort as they count and can be read.
type keyspace struct {
	size       int // of a key, in bytes
	keys       int
	sequential bool
	next       atomic.Int64 // if sequential, over all connections
}

func (k *keyspace) addFlags(f *pflag.FlagSet) {
	f.IntVar(&k.size, "key-size", 8, "bytes of a key")
	f.IntVar(&k.keys, "key-space-size", 100000, "number of different keys")
	f.BoolVar(&k.sequential, "sequential-keys", false, "use keys in order, beginning again at the end, instead of random ones")
}

func (k *keyspace) validate() error {
	if k.keys < 1 || k.size < 1 || k.size > maxKey {
		return usagef("--key-size %d, --key-space-size %d: use at least one key, of 1 to %d bytes", k.size, k.keys, maxKey)
	}
	digits, most := 0, 1
	for most < k.keys {
		most *= 10
		digits++
	}
	if k.size < digits {
		return usagef("--key-size %d is too small for %d different keys: use %d or more", k.size, k.keys, digits)
	}
	return nil
}

// maxKey keeps a request's parts in their places; no use of keys is anywhere near.
const maxKey = 64 << 10

// set writes a key's digits into place.
func (k *keyspace) set(key []byte, n int) {
	for i := len(key) - 1; i >= 0; i-- {
		key[i] = byte('0' + n%10)
		n /= 10
	}
}

// chooser makes a connection's function that picks keys.
func (k *keyspace) chooser(seed uint64, conn int) func() int {
	if k.sequential {
		return func() int { return int((k.next.Add(1) - 1) % int64(k.keys)) }
	}
	rng := rand.New(rand.NewPCG(seed, uint64(conn)))
	return func() int { return rng.IntN(k.keys) }
}

// Field numbers of etcd's messages, as far as they are written or read here by hand.
const (
	fieldKey      = 1
	fieldPutValue = 2
)

// putRequest is a PutRequest with a key of zeros, and where its key lies.
func putRequest(keySize int, value []byte) (message []byte, keyAt int) {
	message = protowire.AppendTag(nil, fieldKey, protowire.BytesType)
	message = protowire.AppendVarint(message, uint64(keySize))
	keyAt = len(message)
	message = append(message, strings.Repeat("0", keySize)...)
	message = protowire.AppendTag(message, fieldPutValue, protowire.BytesType)
	return protowire.AppendBytes(message, value), keyAt
}

// randomValue is printable and doesn't repeat.
func randomValue(size int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1<<63))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(' ' + rng.IntN(95))
	}
	return b
}

// prefixEnd is the first key after all that begin with prefix: "\x00" for none, etcd's
// way to say all.
func prefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return "\x00"
}
