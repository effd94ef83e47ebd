package sdk

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errSilent is the cause of a stream's end by a watchdog: the member is to blame, not the caller.
var errSilent = errors.New("sdk: the member has stopped answering")

// watchdog watches over a stream while its reader waits: after quiet it asks, after patience without anything it
// cancels the stream. While the reader is busy with the consumer it rests.
type watchdog struct {
	ask    func()
	cancel context.CancelCauseFunc
	timer  *time.Timer

	mu struct {
		sync.Mutex
		armed, asked bool
	}
}

func newWatchdog(ask func(), cancel context.CancelCauseFunc) *watchdog {
	d := &watchdog{ask: ask, cancel: cancel}
	d.timer = time.AfterFunc(time.Hour, d.fire)
	d.timer.Stop()
	return d
}

func (d *watchdog) arm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.armed, d.mu.asked = true, false
	d.timer.Reset(quiet)
}

func (d *watchdog) rest() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.armed = false
	d.timer.Stop()
}

func (d *watchdog) stop() { d.rest() }

func (d *watchdog) fire() {
	if d.due() {
		// Only one fire at a time gets here: the next can't be due before patience has passed.
		d.ask()
	}
}

// due tells whether it is time to ask; when that was done in vain it cancels instead.
func (d *watchdog) due() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !d.mu.armed:
		return false
	case d.mu.asked:
		d.cancel(errSilent)
		return false
	}
	d.mu.asked = true
	d.timer.Reset(patience)
	return true
}
