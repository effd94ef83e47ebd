package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func txnCommand(g *globals) *cobra.Command {
	var interactive bool
	cmd := &cobra.Command{
		Use:   "txn",
		Short: "Run several requests as one, on conditions",
		Long: `Run several requests at once, all or none, on conditions. They are read from the input in three parts, each ended by
an empty line: the conditions, the requests if all of them hold, the requests if one doesn't.

A condition is TARGET("KEY") OP "OPERAND": TARGET one of value, version, create, mod and lease (or val, ver, c, m), OP
one of = != < >, and lease ids in hexadecimal. A key that doesn't exist has version "0". A request is a line of get,
put or del with their flags.`,
		Example: `  # take the key unless somebody has it
  muster ctl txn <<'EOF'
  version("leader") = "0"

  put leader me

  get leader

  EOF

  # asked for part by part
  muster ctl txn -i`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			if len(args) != 0 {
				return badArgs("txn command does not accept argument")
			}
			p, err := v.printer(txnResult{})
			if err != nil {
				return err
			}
			prompt := func(text string) {
				if interactive {
					fmt.Fprintln(v.out, text)
				}
			}
			req, err := readTxn(v.in, prompt)
			if err != nil {
				return err
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewKVClient(conn).Txn, req)
			if err != nil {
				return err
			}
			return p.Print(txnResult{resp})
		}),
	}
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "ask for each part")
	return cmd
}

// badInput is a line that can't be used.
func badInput(format string, args ...any) error {
	return &failure{code: exitInput, text: fmt.Sprintf(format, args...), hint: "see 'txn --help' for what the lines look like"}
}

// readTxn reads the three parts.
func readTxn(in io.Reader, prompt func(string)) (*pb.TxnRequest, error) {
	lines := bufio.NewReader(in)
	req := &pb.TxnRequest{}
	prompt("compares:")
	err := readPart(lines, func(line string) error {
		c, err := parseCompare(line)
		req.Compare = append(req.Compare, c)
		return err
	})
	for _, part := range []struct {
		name string
		ops  *[]*pb.RequestOp
	}{{"success", &req.Success}, {"failure", &req.Failure}} {
		if err != nil {
			return nil, err
		}
		prompt(part.name + " requests (get, put, del):")
		err = readPart(lines, func(line string) error {
			op, err := parseRequest(line)
			*part.ops = append(*part.ops, op)
			return err
		})
	}
	return req, err
}

// readPart hands over lines up to an empty one.
func readPart(lines *bufio.Reader, fn func(line string) error) error {
	for {
		line, err := lines.ReadString('\n')
		switch {
		case errors.Is(err, io.EOF):
			return &failure{
				code: exitInput, text: "EOF",
				hint: "the input ended within a part; each of the three ends with an empty line, the last one too", cause: err,
			}
		case err != nil:
			return &failure{code: exitInput, text: err.Error(), cause: err}
		}
		if line = strings.TrimSpace(line); line == "" {
			return nil
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}
