package replay

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// RequestIDHeader is the header by which Kong tells an upstream the id of a request: the key of the ledger.
	RequestIDHeader = "X-Kong-Request-Id"

	// StatusHeader is the header of a request that wants an error.
	StatusHeader = "X-Replay-Status"

	// DefaultDelay is the time between two events of a stream.
	DefaultDelay = 3 * time.Millisecond
)

// Server is the upstream. Its zero value is ready for use; it must not be copied then.
type Server struct {
	Delay    time.Duration // between two events of a stream; 0 is DefaultDelay, negative is none
	NoLedger bool          // for a server that runs for long: Declared then stays empty

	requests atomic.Int64
	once     sync.Once
	mux      *http.ServeMux

	mu       sync.Mutex
	declared map[string]Answer
}

// Answer is what the server knows about an answer of an LLM API.
type Answer struct {
	Provider     string // openai, anthropic or google
	RequestModel string
	Model        string // that the answer names; empty for an error
	Status       int
	Stream       bool

	// Declared says whether the answer declared its usage. An error does not, nor an OpenAI stream that was not asked
	// to, nor a stream that was broken off before.
	Declared bool
	Usage    Usage // zero unless Declared
}

// Requests returns how many requests have come, of any kind.
func (s *Server) Requests() int64 { return s.requests.Load() }

// Declared returns the LLM answers so far by their requests' X-Kong-Request-Id; requests without one are left out. An
// answer is there before its last bytes are sent: whoever has read a whole response finds it.
func (s *Server) Declared() map[string]Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.declared)
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	s.once.Do(s.route)
	s.mux.ServeHTTP(w, r)
}

func (s *Server) route() {
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("POST /v1/chat/completions", s.llm(openAI{}))
	s.mux.HandleFunc("POST /v1/messages", s.llm(anthropic{}))
	s.mux.HandleFunc("POST /v1beta/models/{call}", s.llm(gemini{}))
	s.mux.HandleFunc("/orders", orders)
	s.mux.HandleFunc("/orders/", orders)
}

// api is the format of one LLM API.
type api interface {
	provider() string
	read(c *call, r *http.Request, body []byte) error // fills in model, stream and prompt
	whole(c *call) any                                // the body of an answer in one piece
	events(c *call) []event                           // the pieces of a streamed answer
	fail(status int, message string) any              // the body of an error
}

// call is one request to an LLM API and its answer.
type call struct {
	Answer
	id         string // for the ids in the answer
	prompt     []byte // the messages as they stand in the request
	tokens     Usage
	words      []string
	askedUsage bool // OpenAI: the stream shall declare its usage
	array      bool // Gemini: a stream that is a JSON array
}

// event is one piece of a stream, with its framing.
type event struct {
	text     []byte
	declares bool // it makes the usage known
}

func (s *Server) llm(a api) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client has gone
		}
		c := &call{Answer: Answer{Provider: a.provider(), Status: http.StatusOK}}
		err = a.read(c, r, body)
		if err == nil && c.RequestModel == "" {
			err = errors.New("the request names no model")
		}
		if err != nil {
			c.Status = http.StatusBadRequest
			s.record(r, c)
			writeJSON(w, r, c.Status, a.fail(c.Status, err.Error()))
			return
		}
		if status := wantedStatus(r); status != 0 {
			c.Status = status
			s.record(r, c)
			writeJSON(w, r, status, a.fail(status, "this error was asked for with "+StatusHeader))
			return
		}
		c.Model, c.tokens, c.words = c.draw()
		if c.id = r.Header.Get(RequestIDHeader); c.id == "" {
			c.id = fmt.Sprintf("%016x", c.hash())
		}
		if c.Stream {
			s.stream(w, r, c, a.events(c))
			return
		}
		c.Declared, c.Usage = true, c.tokens
		s.record(r, c)
		writeJSON(w, r, http.StatusOK, a.whole(c))
	}
}

// record puts an answer into the ledger, or what is new about it.
func (s *Server) record(r *http.Request, c *call) {
	id := r.Header.Get(RequestIDHeader)
	if id == "" || s.NoLedger {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.declared == nil {
		s.declared = map[string]Answer{}
	}
	s.declared[id] = c.Answer
}

// hash is different for different models and prompts, and the same for the same.
func (c *call) hash() uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, c.RequestModel) // never fails
	_, _ = h.Write(c.prompt)
	return h.Sum64()
}

// wantedStatus returns the status of the error that a request asks for, or 0.
func wantedStatus(r *http.Request) int {
	status, err := strconv.Atoi(r.Header.Get(StatusHeader))
	if err != nil || status < 400 || status > 599 {
		return 0
	}
	return status
}

func readJSON(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	return nil
}
