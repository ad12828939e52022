package devkong

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Route is a route of kong.yml.
type Route struct {
	ID                      string              `yaml:"id"`
	Name                    string              `yaml:"name"`
	Protocols               []string            `yaml:"protocols"`
	Methods                 []string            `yaml:"methods"`
	Hosts                   []string            `yaml:"hosts"`
	Paths                   []string            `yaml:"paths"`
	Headers                 map[string][]string `yaml:"headers"`
	StripPath               *bool               `yaml:"strip_path"`
	PreserveHost            bool                `yaml:"preserve_host"`
	RegexPriority           int                 `yaml:"regex_priority"`
	PathHandling            string              `yaml:"path_handling"`
	HTTPSRedirectStatusCode int                 `yaml:"https_redirect_status_code"`
	RequestBuffering        *bool               `yaml:"request_buffering"`
	ResponseBuffering       *bool               `yaml:"response_buffering"`
	Tags                    []string            `yaml:"tags"`
	ServiceRef              reference           `yaml:"service"`
	Plugins                 []pluginEntry       `yaml:"plugins"`
	CreatedAt               int64               `yaml:"created_at"`

	service *Service
}

func (r *Route) stripPath() bool { return r.StripPath == nil || *r.StripPath }

// Service is a service of kong.yml.
type Service struct {
	ID             string        `yaml:"id"`
	Name           string        `yaml:"name"`
	URL            string        `yaml:"url"`
	Protocol       string        `yaml:"protocol"`
	Host           string        `yaml:"host"`
	Port           int           `yaml:"port"`
	Path           string        `yaml:"path"`
	Retries        *int          `yaml:"retries"`
	ConnectTimeout int           `yaml:"connect_timeout"`
	WriteTimeout   int           `yaml:"write_timeout"`
	ReadTimeout    int           `yaml:"read_timeout"`
	Enabled        *bool         `yaml:"enabled"`
	Tags           []string      `yaml:"tags"`
	Routes         []*Route      `yaml:"routes"`
	Plugins        []pluginEntry `yaml:"plugins"`
	CreatedAt      int64         `yaml:"created_at"`
}

func (s *Service) enabled() bool { return s.Enabled == nil || *s.Enabled }

func (s *Service) retries() int {
	if s.Retries == nil {
		return 5
	}
	return *s.Retries
}

// Consumer is a consumer of kong.yml.
type Consumer struct {
	ID          string        `yaml:"id"`
	Username    string        `yaml:"username"`
	CustomID    string        `yaml:"custom_id"`
	Tags        []string      `yaml:"tags"`
	Credentials []credential  `yaml:"keyauth_credentials"`
	Plugins     []pluginEntry `yaml:"plugins"`
	CreatedAt   int64         `yaml:"created_at"`
}

// credential is an API key.
type credential struct {
	ID          string    `yaml:"id"`
	Key         string    `yaml:"key"`
	TTL         int       `yaml:"ttl"`
	Tags        []string  `yaml:"tags"`
	ConsumerRef reference `yaml:"consumer"`

	consumer *Consumer
}

// pluginEntry is an entry of a plugins list.
type pluginEntry struct {
	ID           string         `yaml:"id"`
	Name         string         `yaml:"name"`
	InstanceName string         `yaml:"instance_name"`
	Config       map[string]any `yaml:"config"`
	Enabled      *bool          `yaml:"enabled"`
	Protocols    []string       `yaml:"protocols"`
	Tags         []string       `yaml:"tags"`
	RouteRef     reference      `yaml:"route"`
	ServiceRef   reference      `yaml:"service"`
	ConsumerRef  reference      `yaml:"consumer"`

	path     string // where it stands, for problems
	route    *Route
	service  *Service
	consumer *Consumer
}

// reference is the name or id of another entity, or a record of one of them.
type reference string

// UnmarshalYAML reads either form.
func (r *reference) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		var record struct {
			ID   string `yaml:"id"`
			Name string `yaml:"name"`
		}
		if err := n.Decode(&record); err != nil {
			return err
		}
		*r = reference(record.ID + record.Name)
		return nil
	}
	return n.Decode((*string)(r))
}

// file is a declarative configuration as it is written.
type file struct {
	FormatVersion string        `yaml:"_format_version"`
	Transform     *bool         `yaml:"_transform"`
	Comment       any           `yaml:"_comment"`
	Info          any           `yaml:"_info"`
	Services      []*Service    `yaml:"services"`
	Routes        []*Route      `yaml:"routes"`
	Consumers     []*Consumer   `yaml:"consumers"`
	Plugins       []pluginEntry `yaml:"plugins"`
	Credentials   []credential  `yaml:"keyauth_credentials"`
}

// entities are what a declarative configuration holds, connected, with ids and defaults.
type entities struct {
	services  []*Service
	routes    []*Route // in the order of the file
	consumers []*Consumer
	keys      map[string]*credential
	plugins   []*pluginEntry

	problems []error
}

func (e *entities) fail(path, format string, args ...any) {
	e.problems = append(e.problems, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// parseDeclarative reads a kong.yml (or its JSON form). It collects all problems, with the path in Kong's notation, in
// which entries count from 1. A member that the stand-in does not imitate is a problem, not silence.
func parseDeclarative(raw []byte, now int64) *entities {
	e := &entities{keys: map[string]*credential{}}
	var f file
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		typed, ok := errors.AsType[*yaml.TypeError](err)
		if !ok {
			e.problems = append(e.problems, err)
			return e
		}
		for _, problem := range typed.Errors {
			if field, _, unknown := strings.Cut(problem, " not found in type"); unknown {
				problem = field + ": unknown field, or one that the stand-in does not have"
			}
			e.problems = append(e.problems, errors.New(problem))
		}
		return e
	}
	if !slices.Contains([]string{"1.1", "2.1", "3.0"}, f.FormatVersion) {
		e.fail("_format_version", "expected one of: 1.1, 2.1, 3.0")
	}
	for i, s := range f.Services {
		e.service(at("services", i), s, now)
	}
	for i, r := range f.Routes {
		path := at("routes", i)
		var owner *Service
		if r.ServiceRef != "" {
			if owner = e.findService(r.ServiceRef); owner == nil {
				e.fail(path+".service", "invalid reference '%s' (no entry in 'services')", r.ServiceRef)
			}
		}
		e.route(path, r, owner, now)
	}
	for i, c := range f.Consumers {
		e.consumer(at("consumers", i), c, now)
	}
	for i := range f.Credentials {
		c, path := &f.Credentials[i], at("keyauth_credentials", i)
		owner := e.findConsumer(c.ConsumerRef)
		if owner == nil {
			e.fail(path+".consumer", "invalid reference '%s' (no entry in 'consumers')", c.ConsumerRef)
			continue
		}
		e.credential(path, c, owner)
	}
	e.addPlugins("", f.Plugins, pluginEntry{})
	return e
}

func at(list string, i int) string { return list + "[" + strconv.Itoa(i+1) + "]" }

func (e *entities) service(path string, s *Service, now int64) {
	if s.URL != "" {
		u, err := url.Parse(s.URL)
		if err != nil {
			e.fail(path+".url", "%v", err)
			return
		}
		s.Protocol, s.Host, s.Path = u.Scheme, u.Hostname(), u.EscapedPath()
		s.Port, _ = strconv.Atoi(u.Port())
		if s.Port == 0 && u.Scheme == "https" {
			s.Port = 443
		}
	}
	if s.Protocol == "" {
		s.Protocol = "http"
	}
	if s.Protocol != "http" {
		e.fail(path+".protocol", "the stand-in proxies to http only, not %q", s.Protocol)
	}
	if s.Host == "" {
		e.fail(path+".host", "required field missing")
	}
	if s.Path != "" && !strings.HasPrefix(s.Path, "/") {
		e.fail(path+".path", "should start with: /")
	}
	orDefault(&s.Port, 80)
	orDefault(&s.ConnectTimeout, 60000)
	orDefault(&s.WriteTimeout, 60000)
	orDefault(&s.ReadTimeout, 60000)
	s.ID = idOf(s.ID, "services", s.Name)
	s.CreatedAt = now
	for _, other := range e.services {
		if other.Name != "" && other.Name == s.Name {
			e.fail(path+".name", "uniqueness violation: 'services' entity with name set to '%s' already declared", s.Name)
		}
	}
	e.services = append(e.services, s)
	for i, r := range s.Routes {
		e.route(path+"."+at("routes", i), r, s, now)
	}
	e.addPlugins(path+".", s.Plugins, pluginEntry{service: s})
}

func (e *entities) route(path string, r *Route, owner *Service, now int64) {
	if owner == nil && r.ServiceRef == "" {
		e.fail(path+".service", "the stand-in needs a service for every route")
	}
	r.service, r.CreatedAt = owner, now
	r.ID = idOf(r.ID, "routes", r.Name)
	if r.Protocols == nil {
		r.Protocols = []string{"http", "https"}
	}
	orDefault(&r.HTTPSRedirectStatusCode, 426)
	if r.PathHandling == "" {
		r.PathHandling = "v0"
	}
	if r.PathHandling != "v0" {
		e.fail(path+".path_handling", "the stand-in has v0 only, not %q", r.PathHandling)
	}
	if len(r.Paths)+len(r.Hosts)+len(r.Methods)+len(r.Headers) == 0 {
		e.fail(path, "must set one of 'methods', 'hosts', 'headers', 'paths', 'snis' when 'protocols' is 'https'")
	}
	for i, p := range r.Paths {
		if err := checkPath(p); err != nil {
			e.fail(path+"."+at("paths", i), "%v", err)
		}
	}
	e.routes = append(e.routes, r)
	e.addPlugins(path+".", r.Plugins, pluginEntry{route: r})
}

func (e *entities) consumer(path string, c *Consumer, now int64) {
	if c.Username == "" && c.CustomID == "" {
		e.fail(path, "at least one of these fields must be non-empty: 'custom_id', 'username'")
	}
	c.ID, c.CreatedAt = idOf(c.ID, "consumers", c.Username), now
	e.consumers = append(e.consumers, c)
	for i := range c.Credentials {
		e.credential(path+"."+at("keyauth_credentials", i), &c.Credentials[i], c)
	}
	e.addPlugins(path+".", c.Plugins, pluginEntry{consumer: c})
}

func (e *entities) credential(path string, c *credential, owner *Consumer) {
	c.consumer = owner
	if c.ID == "" {
		c.ID = randomUUID() // its key is an automatic field: Kong makes no stable id
	}
	if c.Key == "" {
		c.Key = requestID()
	}
	if _, taken := e.keys[c.Key]; taken {
		e.fail(path+".key", "uniqueness violation: another credential has this key")
		return
	}
	e.keys[c.Key] = c
}

// addPlugins adds a list of plugins with what they are nested in.
func (e *entities) addPlugins(prefix string, list []pluginEntry, nested pluginEntry) {
	for i := range list {
		p := &list[i]
		p.path = prefix + at("plugins", i)
		p.route, p.service, p.consumer = nested.route, nested.service, nested.consumer
		if p.RouteRef != "" {
			i := slices.IndexFunc(e.routes, func(r *Route) bool { return r.ID == string(p.RouteRef) || r.Name == string(p.RouteRef) })
			if i < 0 {
				e.fail(p.path+".route", "invalid reference '%s' (no entry in 'routes')", p.RouteRef)
				continue
			}
			p.route = e.routes[i]
		}
		if p.ServiceRef != "" {
			if p.service = e.findService(p.ServiceRef); p.service == nil {
				e.fail(p.path+".service", "invalid reference '%s' (no entry in 'services')", p.ServiceRef)
				continue
			}
		}
		if p.ConsumerRef != "" {
			if p.consumer = e.findConsumer(p.ConsumerRef); p.consumer == nil {
				e.fail(p.path+".consumer", "invalid reference '%s' (no entry in 'consumers')", p.ConsumerRef)
				continue
			}
		}
		if p.Name == "" {
			e.fail(p.path+".name", "required field missing")
			continue
		}
		key := "plugins:*:" + p.Name + ":" + p.routeID() + ":" + p.serviceID() + ":" + p.consumerID()
		for _, other := range e.plugins {
			if other.Name == p.Name && other.route == p.route && other.service == p.service && other.consumer == p.consumer {
				e.fail(p.path, "uniqueness violation: %s is configured for the same entities at %s", p.Name, other.path)
			}
		}
		p.ID = idOf(p.ID, "plugins", key)
		e.plugins = append(e.plugins, p)
	}
}

func (p *pluginEntry) enabled() bool { return p.Enabled == nil || *p.Enabled }

func (p *pluginEntry) routeID() string {
	if p.route == nil {
		return ""
	}
	return p.route.ID
}

func (p *pluginEntry) serviceID() string {
	if p.service == nil {
		return ""
	}
	return p.service.ID
}

func (p *pluginEntry) consumerID() string {
	if p.consumer == nil {
		return ""
	}
	return p.consumer.ID
}

func (e *entities) findService(ref reference) *Service {
	i := slices.IndexFunc(e.services, func(s *Service) bool { return s.ID == string(ref) || s.Name == string(ref) })
	if i < 0 {
		return nil
	}
	return e.services[i]
}

func (e *entities) findConsumer(ref reference) *Consumer {
	i := slices.IndexFunc(e.consumers, func(c *Consumer) bool { return c.ID == string(ref) || c.Username == string(ref) })
	if i < 0 {
		return nil
	}
	return e.consumers[i]
}

func idOf(id, kind, key string) string {
	switch {
	case id != "":
		return id
	case key != "":
		return entityID(kind, key)
	default:
		return randomUUID()
	}
}

func orDefault(n *int, value int) {
	if *n == 0 {
		*n = value
	}
}
