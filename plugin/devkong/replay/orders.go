package replay

import (
	"net/http"
	"strings"
)

type order struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Items  int    `json:"items"`
}

// orders is an API that is no LLM's: GET lists orders or shows one, POST makes one.
func orders(w http.ResponseWriter, r *http.Request) {
	if status := wantedStatus(r); status != 0 {
		writeJSON(w, r, status, map[string]any{"error": "this error was asked for with " + StatusHeader})
		return
	}
	id := strings.Trim(strings.TrimPrefix(r.URL.Path, "/orders"), "/")
	switch {
	case r.Method == http.MethodPost:
		w.Header().Set("Location", "/orders/1003")
		writeJSON(w, r, http.StatusCreated, order{"1003", "accepted", 1})
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD, POST")
		writeJSON(w, r, http.StatusMethodNotAllowed, map[string]any{"error": "method not allowed"})
	case id == "":
		writeJSON(w, r, http.StatusOK, map[string]any{"orders": []order{{"1001", "shipped", 3}, {"1002", "packed", 1}}})
	default:
		writeJSON(w, r, http.StatusOK, order{id, "shipped", 1 + len(id)%5})
	}
}
