package command

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// broker looks at the address of one broker: its name, its port and its certificate.
func (d *doctor) broker(address string) (reached bool) {
	const check = "broker"
	ctx, cancel := context.WithTimeout(context.Background(), d.settings.Timeout)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		d.note(check, checkProblem, "%s is not host:port", address)
		return false
	}
	if _, err := net.DefaultResolver.LookupHost(ctx, host); err != nil {
		d.note(check, checkProblem, "%s: the name %s is not known here: %v", address, host, err)
		return false
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		d.note(check, checkProblem, "%s: nobody answers (%v): start Kafka there, or mend the address or the firewall between", address, err)
		return false
	}
	defer func() { _ = conn.Close() }() // it was for looking only
	if d.settings.TLS == nil {
		d.note(check, checkOK, "%s answers, without TLS", address)
		return true
	}
	config := d.settings.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName = host
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		d.note(check, checkProblem, "%s: TLS does not come about: %v: check the authority (security.ca_certificate), the name in the certificate, and that the port speaks TLS", address, err)
		return false
	}
	if config.InsecureSkipVerify {
		d.note(check, checkWarning, "%s: the certificate is not verified (security.ssl_verify): whoever answers in the broker's place reads the events", address)
	}
	for _, c := range secure.ConnectionState().PeerCertificates[:1] {
		if left := time.Until(c.NotAfter); left < certificateWarning {
			d.note(check, checkWarning, "%s: the certificate ends on %s, in %d days", address, c.NotAfter.Format(time.DateOnly), int(left.Hours()/24))
			return true
		}
		d.note(check, checkOK, "%s answers with TLS, the certificate of %s is good until %s", address, c.Subject.CommonName, c.NotAfter.Format(time.DateOnly))
	}
	return true
}

// dialUnix connects to a unix socket, and lets go.
func dialUnix(path string, timeout time.Duration) error {
	conn, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return err
	}
	return conn.Close()
}
