package replay

import (
	"net/http"
	"strconv"
	"strings"
)

type order struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Items  int    `json:"items"`
}

// creditsHeader is the header of an answer in which the API says what it costs: a quarter of a credit for each item.
const creditsHeader = "X-Credits"

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
		writeOrders(w, r, http.StatusCreated, order{"1003", "accepted", 1})
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD, POST")
		writeJSON(w, r, http.StatusMethodNotAllowed, map[string]any{"error": "method not allowed"})
	case id == "":
		writeOrders(w, r, http.StatusOK, order{"1001", "shipped", 3}, order{"1002", "packed", 1})
	default:
		writeOrders(w, r, http.StatusOK, order{id, "shipped", 1 + len(id)%5})
	}
}

// writeOrders answers with one order, or with a list of several.
func writeOrders(w http.ResponseWriter, r *http.Request, status int, orders ...order) {
	items := 0
	for _, o := range orders {
		items += o.Items
	}
	w.Header().Set(creditsHeader, strconv.FormatFloat(float64(items)*0.25, 'f', -1, 64))
	if len(orders) == 1 {
		writeJSON(w, r, status, orders[0])
		return
	}
	writeJSON(w, r, status, map[string]any{"orders": orders})
}
