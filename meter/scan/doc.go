// Package scan picks chosen members out of a JSON object in one pass, without decoding it and without copying.
//
// It is what makes it cheap to read five numbers out of a response of any size, and twenty paths out of Kong's log: the
// document is validated, strictly by the grammar of RFC 8259, in the same pass that finds the values. Its input is hostile:
// it never panics, its depth is bounded, and its memory does not depend on the input.
//
// It leaves two freedoms that JSON has to a rule. Of a name that an object holds twice the first counts: which of two a
// reader takes is undefined (RFC 8259, section 4), and the first cannot be overridden by what is appended behind it. And a
// null is as good as absent.
package scan
