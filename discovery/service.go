package discovery

// Service is a service's policy, the operator's. A service needs none: the zero Service with the defaults applies.
type Service struct {
	NS, Name string
	// DNSTTL is the TTL of DNS answers in seconds; 0 takes the server's default (5).
	DNSTTL uint32
	// MaxAnswers bounds the addresses in one DNS answer; 0 takes the server's default (16).
	MaxAnswers uint32
	// EmptyAnswer is what DNS answers when no instance serves: "" or "nodata", or "nxdomain" as Kubernetes and Consul do.
	EmptyAnswer string
	// Meta is free text by name.
	Meta map[string]string

	// unknown holds the policies this release doesn't apply (lb_policy, failover …) too: they survive rewriting.
	unknown string
}

// The values of Service.EmptyAnswer.
const (
	EmptyAnswerNoData   = "nodata"
	EmptyAnswerNXDomain = "nxdomain"
)

// KeepUnknown takes over the fields of old that this release doesn't know.
func (s *Service) KeepUnknown(old *Service) {
	if s.unknown == "" {
		s.unknown = old.unknown
	}
}
