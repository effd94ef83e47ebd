package ctl

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/sdk"
)

func serviceCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Registered services and their instances",
		Example: `  muster ctl service list
  muster ctl service show web --namespace shop`,
	}
	cmd.AddCommand(serviceListCommand(g), serviceShowCommand(g))
	return cmd
}

func serviceListCommand(g *globals) *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the services of all namespaces, or of one",
		Long:  `List services: namespace, name, instances that serve, instances in all.`,
		Example: `  muster ctl service list
  muster ctl service list --namespace shop -w table`,
		Args: noArgs(g),
		RunE: g.run(func(ctx context.Context, v *invocation, _ []string) error {
			p, err := v.printer(servicesResult{})
			if err != nil {
				return err
			}
			client, err := v.open(ctx)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, g.commandTimeout)
			defer cancel()
			r, err := listServices(ctx, client, namespace)
			if err != nil {
				return err
			}
			return p.Print(r)
		}),
	}
	cmd.Flags().StringVar(&namespace, "namespace", "", "only this namespace")
	return cmd
}

// listServices counts instances, and adds services that have a policy and no instance.
func listServices(ctx context.Context, client *sdk.Client, namespace string) (servicesResult, error) {
	records, rev, err := discovery.NewRegistry(discovery.RegistryConfig{Store: client}).List(ctx, namespace, "")
	if err != nil {
		return servicesResult{}, err
	}
	r := servicesResult{Revision: rev, Services: []serviceLine{}}
	counts := make(map[[2]string]*serviceLine)
	count := func(ns, name string) *serviceLine {
		k := [2]string{ns, name}
		if counts[k] == nil {
			counts[k] = &serviceLine{Namespace: ns, Name: name}
		}
		return counts[k]
	}
	for _, rec := range records {
		s := count(rec.Ref.NS, rec.Ref.Svc)
		s.Instances++
		if rec.Err == nil && discovery.Effective(&rec.Instance, rec.Health).Serving() {
			s.Serving++
		}
	}
	prefix := discovery.ServiceKey(namespace, "")
	if namespace == "" {
		prefix = strings.TrimSuffix(prefix, "/") // all namespaces
	}
	policies, err := client.Get(ctx, prefix, sdk.WithPrefix(), sdk.WithKeysOnly())
	if err != nil {
		return servicesResult{}, err
	}
	for _, kv := range policies.KVs {
		if kind, ref, err := discovery.ParseKey(kv.Key); err == nil && kind == discovery.KindService {
			count(ref.NS, ref.Svc)
		}
	}
	for _, s := range counts {
		r.Services = append(r.Services, *s)
	}
	r.sort()
	return r, nil
}

func serviceShowCommand(g *globals) *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a service's instances",
		Long: `Show a service's instances: id, effective status, node, endpoints, and why the status isn't passing. Draining and
starting instances, and those with a critical check, don't get traffic.`,
		Example: `  muster ctl service show web
  muster ctl service show web --namespace shop -w table
  muster ctl service show web -w json`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			if len(args) != 1 {
				return badArgs("service show needs one argument, the service's name")
			}
			p, err := v.printer(serviceResult{})
			if err != nil {
				return err
			}
			client, err := v.open(ctx)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, g.commandTimeout)
			defer cancel()
			r, err := showService(ctx, client, namespace, args[0])
			if err != nil {
				return err
			}
			return p.Print(r)
		}),
	}
	cmd.Flags().StringVar(&namespace, "namespace", discovery.DefaultNamespace, "the service's namespace")
	return cmd
}

func showService(ctx context.Context, client *sdk.Client, namespace, name string) (serviceResult, error) {
	registry := discovery.NewRegistry(discovery.RegistryConfig{Store: client})
	records, rev, err := registry.List(ctx, namespace, name)
	if err != nil {
		return serviceResult{}, err
	}
	r := serviceResult{Revision: rev, Namespace: namespace, Name: name, Instances: []instanceLine{}}
	policy, ok, err := registry.GetService(ctx, namespace, name)
	if err != nil {
		return serviceResult{}, err
	}
	if ok {
		r.Policy = &policy
	}
	if !ok && len(records) == 0 {
		return serviceResult{}, &failure{
			code: exitError, text: fmt.Sprintf("service %q isn't registered in namespace %q", name, namespace),
			hint: "'service list' shows those there are; another namespace is chosen with --namespace",
		}
	}
	for _, rec := range records {
		r.Instances = append(r.Instances, newInstanceLine(rec))
	}
	return r, nil
}
