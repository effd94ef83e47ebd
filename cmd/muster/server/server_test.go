package server

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAMemberThatDoesNotCloseIsNotWaitedForForEver(t *testing.T) {
	stuck, gone := make(chan struct{}), make(chan struct{})
	err := closeWithin(time.Millisecond, func() error {
		defer close(gone)
		<-stuck
		return nil
	})
	if !errors.Is(err, errCloseLimit) {
		t.Errorf("%v", err)
	}
	close(stuck)
	<-gone
}

func TestWhatClosingSaysIsToldOnceItHasClosed(t *testing.T) {
	want := errors.New("no room for a checkpoint")
	if err := closeWithin(time.Hour, func() error { return want }); !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
}
