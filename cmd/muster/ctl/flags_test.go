package ctl

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

// once runs a command to its end.
func once(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	code := execute(t.Context(), args, strings.NewReader(stdin), &out, &errOut)
	return outcome{out.String(), errOut.String(), code}
}

// echoServer answers a get with the token it came with, and knows one user.
type echoServer struct {
	pb.UnimplementedKVServer
	pb.UnimplementedAuthServer
}

func (echoServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return &pb.RangeResponse{
		Header: &pb.ResponseHeader{},
		Kvs:    []*mvccpb.KeyValue{{Key: r.GetKey(), Value: []byte(strings.Join(md.Get("token"), ","))}},
	}, nil
}

func (echoServer) Authenticate(_ context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return &pb.AuthenticateResponse{Token: r.GetName() + "/" + r.GetPassword()}, nil
}

func echo(t *testing.T, opts ...grpc.ServerOption) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	pb.RegisterKVServer(s, echoServer{})
	pb.RegisterAuthServer(s, echoServer{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.Addr().String()
}

func TestAFlagWinsOverTheEnvironmentAndOurVariableOverEtcds(t *testing.T) {
	addr := echo(t)
	t.Setenv("ETCDCTL_ENDPOINTS", "127.0.0.1:1")
	t.Setenv("MUSTERCTL_ENDPOINTS", addr)
	t.Setenv("ETCDCTL_WRITE_OUT", "fields")
	t.Setenv("ETCDCTL_API", "3")
	if o := once(t, "", "get", "k", "-w", "simple"); o.code != 0 || o.stdout != "k\n\n" || o.stderr != "" {
		t.Errorf("with a flag: %+v", o)
	}
	if o := once(t, "", "get", "k"); o.code != 0 || !strings.HasPrefix(o.stdout, `"ClusterID" : 0`) {
		t.Errorf("without: %+v", o)
	}
}

func TestEnvironmentThatMeansNothingIsNamed(t *testing.T) {
	addr := echo(t)
	t.Setenv("ETCDCTL_ENDPOINT", "nowhere")
	if o := once(t, "", "get", "k", "--endpoints", addr); o.code != 0 || !strings.Contains(o.stderr, "Warning: environment variable ETCDCTL_ENDPOINT ") {
		t.Errorf("a name that is no flag: %+v", o)
	}
	t.Setenv("ETCDCTL_DIAL_TIMEOUT", "soon")
	if o := once(t, "", "get", "k"); o.code != exitArgs || !strings.Contains(o.stderr, `ETCDCTL_DIAL_TIMEOUT="soon"`) {
		t.Errorf("a value that can't be used: %+v", o)
	}
	t.Setenv("ETCDCTL_DIAL_TIMEOUT", "")
	t.Setenv("ETCDCTL_API", "2")
	if o := once(t, "", "get", "k"); o.code != exitArgs || !strings.Contains(o.stderr, "ETCDCTL_API=2") {
		t.Errorf("another version of the API: %+v", o)
	}
}

func TestWhoAsksIsTakenFromFlagsOrAskedFor(t *testing.T) {
	addr := echo(t)
	for _, c := range []struct {
		flags, stdin, token string
	}{
		{"", "", ""},
		{"--user root:a:b", "", "root/a:b"},
		{"--user root --password pw", "", "root/pw"},
		{"--user root", "typed\n", "root/typed"},
		{"--auth-jwt-token T", "", "T"},
	} {
		o := once(t, c.stdin, append(strings.Fields("get k --print-value-only --endpoints "+addr), strings.Fields(c.flags)...)...)
		if o.code != 0 || o.stdout != c.token+"\n" {
			t.Errorf("%q: %+v; want token %q", c.flags, o, c.token)
		}
	}
	for _, flags := range []string{"--password pw", "--user root:x --auth-jwt-token T"} {
		if o := once(t, "", append([]string{"get", "k"}, strings.Fields(flags)...)...); o.code != exitArgs {
			t.Errorf("%q: %+v; want exit code %d", flags, o, exitArgs)
		}
	}
	if o := once(t, "", "get", "k", "--user", "root"); o.code != exitError || !strings.Contains(o.stderr, "no password for --user root") {
		t.Errorf("no password to read: %+v", o)
	}
}

func TestTLSTrustsOnlyWhatItIsTold(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := selfSigned(t, dir)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pemBytes, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(pemBytes)
	addr := echo(t, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	client := []string{"--cert", certFile, "--key", keyFile, "--command-timeout", "500ms"}
	for _, c := range []struct {
		name string
		args []string
		ok   bool
	}{
		{"https and the authority", append([]string{"--endpoints", "https://" + addr, "--cacert", certFile}, client...), true},
		{"the flags alone ask for TLS", append([]string{"--endpoints", addr, "--cacert", certFile}, client...), true},
		{"any server", append([]string{"--endpoints", "https://" + addr, "--insecure-skip-tls-verify"}, client...), true},
		{"the system's authorities", append([]string{"--endpoints", "https://" + addr}, client...), false},
		{"no client certificate", []string{"--endpoints", "https://" + addr, "--cacert", certFile, "--command-timeout", "500ms"}, false},
		{"plain text", []string{"--endpoints", "http://" + addr, "--command-timeout", "500ms"}, false},
	} {
		if o := once(t, "", append([]string{"get", "k"}, c.args...)...); (o.code == 0) != c.ok {
			t.Errorf("%s: %+v; want success %t", c.name, o, c.ok)
		}
	}
	for _, args := range [][]string{
		{"--cacert", ""}, {"--cert", ""}, {"--key", ""}, {"--cert", certFile}, {"--cacert", keyFile}, {"--cacert", filepath.Join(dir, "none")},
	} {
		if o := once(t, "", append([]string{"get", "k"}, args...)...); o.code != exitArgs {
			t.Errorf("%q: %+v; want exit code %d", args, o, exitArgs)
		}
	}
}

func selfSigned(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, b := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestAnUnreachableServerIsNamedWithTheReason(t *testing.T) {
	t.Parallel()
	// Long enough for a busy machine to be refused at least once; the call lasts that long.
	o := once(t, "", "get", "k", "--endpoints", "127.0.0.1:1", "--command-timeout", "3s")
	if o.code != exitError || !strings.HasPrefix(o.stderr, "Error: context deadline exceeded\n") ||
		!strings.Contains(o.stderr, "no member answered at 127.0.0.1:1 within 3s (dial tcp 127.0.0.1:1: connect: connection refused)") {
		t.Errorf("get: %+v", o)
	}
	o = once(t, "", "endpoint", "health", "--endpoints", "127.0.0.1:1", "--command-timeout", "200ms")
	if o.code != exitError || o.stdout != "" || !strings.HasPrefix(o.stderr, "127.0.0.1:1 is unhealthy: ") {
		t.Errorf("endpoint health: %+v", o)
	}
}

func TestARequestOverTheLimitIsNotSent(t *testing.T) {
	o := once(t, strings.Repeat("x", 2000), "put", "k", "--endpoints", echo(t), "--max-request-bytes", "1000")
	if o.code != exitError || !strings.Contains(o.stderr, "larger than max") {
		t.Errorf("put: %+v", o)
	}
}

func TestDeletingARangeCanBeInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errOut bytes.Buffer
	code := execute(ctx, []string{"del", "a", "b", "--endpoints", "127.0.0.1:1"}, strings.NewReader(""), &out, &errOut)
	if code == 0 || !strings.Contains(errOut.String(), "Warning: Keys between \"a\" and \"b\" will be deleted.") ||
		!strings.Contains(errOut.String(), "Nothing was deleted.") {
		t.Errorf("exit code %d, stderr %q", code, &errOut)
	}
}

func TestEveryCommandTeachesByExample(t *testing.T) {
	for _, root := range []*cobra.Command{Command(), Etcdctl()} {
		visit(root, func(cmd *cobra.Command) {
			if cmd.Example == "" || cmd.Short == "" {
				t.Errorf("%s has no example or no description", cmd.CommandPath())
			}
			if root.Name() == "etcdctl" && strings.Contains(cmd.Example, "muster ctl") {
				t.Errorf("%s names another program in its examples", cmd.CommandPath())
			}
		})
	}
}

func TestHelpAndOptionsAndCompletionPrint(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"put --help", "etcdctl put greeting hello"},
		{"lease", "etcdctl lease [command]"},
		{"options", "--command-timeout duration"},
		{"version", "etcdctl version: 3.7.3\nAPI version: 3.7\n"},
		{"completion bash", "bash completion"},
		{"completion zsh", "#compdef etcdctl"},
		{"completion fish", "complete -c etcdctl"},
		{"completion powershell", "Register-ArgumentCompleter"},
	} {
		if o := once(t, "", strings.Fields(c.args)...); o.code != 0 || !strings.Contains(o.stdout, c.want) {
			t.Errorf("%s: exit code %d, stderr %q; want %q in the output", c.args, o.code, o.stderr, c.want)
		}
	}
	if o := once(t, "", "completion", "tcsh"); o.code != exitArgs {
		t.Errorf("completion tcsh: %+v", o)
	}
}
