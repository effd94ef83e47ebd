// Package probe finds out how instances are: it runs http, tcp and ttl checks and turns their single results into a
// status that doesn't flap.
//
// # Types
//
//   - Tracker: pure; counts results and says which status they amount to (rise, fall).
//   - Probe: one http or tcp attempt.
//   - Runner: Open starts it, Set says which checks to run, Report feeds a ttl check, States tells how all are.
//
// # Behaviour
//
// A check starts critical. Its first good result is believed at once, so that a service is registered as soon as it
// answers; from then on Rise good results in a row better it and Fall bad ones worsen it. http: 2xx passes, 429 warns,
// everything else is critical; redirects aren't followed, proxies from the environment aren't used. Output is kept to 4
// KiB. The first probe comes within a second, at a random moment; the second within one interval, also at a random one,
// so that checks that started together spread; from then on they come at the interval exactly. A probe that waits for
// its turn doesn't lose of its time-out by it.
//
// # Concurrency
//
// A Runner's methods may be called from any goroutine. One goroutine a check, started by Set and awaited by Set or
// Close; at most Config.Parallel of them probe at the same time. OnChange is called from these goroutines and must not
// block nor call Set or Close.
//
// # Refusals
//
// Checks that execute commands aren't known here at all. A target that isn't valid is refused by Set before any change.
package probe
