package registrar

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	lib "github.com/musterhq/muster/registrar"
)

// ExitError ends the program with a code of the wrapped command's.
type ExitError struct {
	Code int
	Why  string
}

func (e *ExitError) Error() string { return e.Why }

// ExitCode is the code to exit with.
func (e *ExitError) ExitCode() int { return e.Code }

// storeFlags say how to reach the cluster; they override the file.
type storeFlags struct {
	endpoints          []string
	cacert, cert, key  string
	user, passwordFile string
	logLevel           string
}

func (f *storeFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringSliceVar(&f.endpoints, "endpoints", nil, "members of the cluster, host:port or URL; also from MUSTER_ENDPOINTS or ETCDCTL_ENDPOINTS (default 127.0.0.1:2379)")
	fs.StringVar(&f.cacert, "cacert", "", "certificates to verify the members with")
	fs.StringVar(&f.cert, "cert", "", "client certificate")
	fs.StringVar(&f.key, "key", "", "client certificate's key")
	fs.StringVar(&f.user, "user", "", "user to authenticate as")
	fs.StringVar(&f.passwordFile, "password-file", "", "file with the user's password in its first line")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error; the log goes to stderr")
}

// apply overrides the configuration by what was given.
func (f *storeFlags) apply(c *lib.StoreConfig) {
	for _, env := range []string{"MUSTER_ENDPOINTS", "ETCDCTL_ENDPOINTS"} {
		if v := os.Getenv(env); v != "" && len(f.endpoints) == 0 && len(c.Endpoints) == 0 {
			c.Endpoints = strings.Split(v, ",")
		}
	}
	if len(f.endpoints) > 0 {
		c.Endpoints = f.endpoints
	}
	for _, o := range []struct {
		flag string
		to   *string
	}{
		{f.cacert, &c.TLS.CA},
		{f.cert, &c.TLS.Cert},
		{f.key, &c.TLS.Key},
		{f.user, &c.User},
		{f.passwordFile, &c.PasswordFile},
	} {
		if o.flag != "" {
			*o.to = o.flag
		}
	}
}

func (f *storeFlags) logger(cmd *cobra.Command) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", f.logLevel)
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})), nil
}

// Command returns "registrar" with its subcommand "run".
func Command() *cobra.Command {
	var store storeFlags
	var file string
	cmd := &cobra.Command{
		Use:   "registrar --config FILE",
		Short: "Keep this host's services registered",
		Long: `Keeps the services of a configuration file registered: checks their health, holds one lease, and makes the store
say what file and checks say, however often the cluster goes away.

SIGTERM and SIGINT take the instances out of traffic (drain), wait drain.delay, deregister and end; a second one doesn't
wait. SIGHUP reads the file anew: all of it is validated first, and a bad file changes nothing.`,
		Example: `  muster registrar --config /etc/muster/registrar.yaml
  muster registrar --config registrar.yaml --endpoints 10.0.0.1:2379,10.0.0.2:2379

  # registrar.yaml
  node: {addr: "iface:eth0"}
  services:
    - name: api
      ports: {http: 8080, grpc: 9090}
      tags: [v2]
      checks:
        - {http: /healthz, interval: 5s}
        - {tcp: grpc}

  # one service, without a file
  muster registrar run --name web --port http=8080 --check http:/healthz -- ./web`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return errors.New("which services? give --config FILE, or see muster registrar run --help")
			}
			logger, err := store.logger(cmd)
			if err != nil {
				return err
			}
			read := func() (lib.Config, error) {
				cfg, err := readConfig(file, store.apply)
				if err != nil {
					err = fmt.Errorf("%s: %w", file, err)
				}
				return cfg, err
			}
			cfg, err := read()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), service{cfg: cfg, reload: read, logger: logger})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
	store.add(cmd)
	cmd.AddCommand(runCommand())
	return cmd
}

func readConfig(file string, apply func(*lib.StoreConfig)) (lib.Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return lib.Config{}, err
	}
	return lib.Parse(data, func(c *lib.Config) { apply(&c.Store) })
}
