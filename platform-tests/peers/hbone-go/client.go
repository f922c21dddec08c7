package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// What a client may do wrong, beside the bad certificates of mint.
const (
	badNoClientCert       = "no-client-cert"
	badPlainBytes         = "plain-bytes"
	badOversizedConnect   = "oversized-connect"
	badMalformedAuthority = "malformed-authority"
	badRSTCode            = "rst-code"
	badTruncate           = "truncate"
)

type client struct {
	addr, authority, forwarded, serverName, expect, bad string
	rstCode                                             uint
	check                                               int64
	preamble                                            []byte
	streams                                             int
	timeout                                             time.Duration
	proof                                               *proof
}

func runClient(args []string) error {
	var c client
	var names proofFlags
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	names.register(flags)
	flags.StringVar(&c.addr, "addr", "", "`host:port` of the peer's HBONE listener")
	flags.StringVar(&c.authority, "authority", "", "`ip:port` to ask for")
	flags.StringVar(&c.forwarded, "forwarded", "10.0.0.1:40000", "`ip:port` of the client that is spoken for")
	flags.StringVar(&c.serverName, "sni", "", "server `name` to ask for; none by default")
	flags.StringVar(&c.expect, "expect", "", "SPIFFE `id` that must be at the other end")
	flags.Int64Var(&c.check, "check", 0, "send this many `bytes`, half-close, and expect them back; 0: pipe stdin and stdout")
	preamble := flags.String("preamble", "", "with --check, `hex` bytes to send first that don't come back")
	flags.IntVar(&c.streams, "streams", 1, "with --check, streams at once in the tunnel")
	flags.DurationVar(&c.timeout, "timeout", time.Minute, "for the whole run")
	flags.StringVar(&c.bad, "bad", "", "misbehave: expired, two-sans, unknown-issuer, wrong-trust-domain, "+
		"no-client-cert, plain-bytes, oversized-connect, malformed-authority, rst-code, truncate")
	flags.UintVar(&c.rstCode, "rst-code", 8, "error code for --bad rst-code")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if c.preamble, err = hex.DecodeString(*preamble); err != nil {
		return usage("--preamble: %v", err)
	}
	if c.proof, err = names.load(c.bad); err != nil {
		return err
	}
	if c.bad == badNoClientCert {
		c.proof.certificate = nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	return c.run(ctx)
}

func (c *client) run(ctx context.Context) error {
	socket, err := new(net.Dialer).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	defer socket.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			socket.Close()
		case <-done:
		}
	}()
	if c.bad == badPlainBytes {
		return plainBytes(socket)
	}
	secure := tls.Client(socket, c.proof.clientConfig(c.serverName, c.expect))
	if err := secure.HandshakeContext(ctx); err != nil {
		return outcome{exitRefused, err}
	}
	serial := secure.ConnectionState().PeerCertificates[0].SerialNumber
	fmt.Fprintf(os.Stderr, "hbone-go: peer's serial %x\n", serial.Bytes())
	switch c.bad {
	case badOversizedConnect, badMalformedAuthority, badRSTCode, badTruncate:
		return c.misbehave(socket, secure)
	}
	tunnel, err := (&http2.Transport{}).NewClientConn(secure)
	if err != nil {
		return outcome{exitRefused, err}
	}
	if c.check == 0 {
		return classify(c.pipe(ctx, tunnel, os.Stdin, os.Stdout))
	}
	return c.checkAll(ctx, tunnel)
}

// checkAll runs the self-check on all streams at once and reports the first failure.
func (c *client) checkAll(ctx context.Context, tunnel *http2.ClientConn) error {
	failures := make(chan error, c.streams)
	var running sync.WaitGroup
	for stream := 0; stream < c.streams; stream++ {
		running.Add(1)
		go func(seed int64) {
			defer running.Done()
			failures <- c.checkOne(ctx, tunnel, seed)
		}(int64(stream))
	}
	running.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			return classify(err)
		}
	}
	fmt.Printf("ok: %d streams of %d bytes came back\n", c.streams, c.check)
	return nil
}

// checkOne sends bytes that differ everywhere, half-closes, and compares what comes back.
func (c *client) checkOne(ctx context.Context, tunnel *http2.ClientConn, seed int64) error {
	sent, received := sha256.New(), sha256.New()
	source := rand.New(rand.NewSource(seed))
	expected := io.TeeReader(io.LimitReader(source, c.check), sent)
	err := c.pipe(ctx, tunnel, io.MultiReader(bytes.NewReader(c.preamble), expected), received)
	if err == nil && !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		err = errors.New("what came back differs from what was sent")
	}
	return err
}

// pipe opens a stream and carries up and down until both have ended.
func (c *client) pipe(ctx context.Context, tunnel *http2.ClientConn, up io.Reader, down io.Writer) error {
	request := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Scheme: "https", Host: c.authority},
		Host:   c.authority,
		Header: http.Header{"Forwarded": {fmt.Sprintf("for=%q", c.forwarded)}},
		Body:   io.NopCloser(up),
	}
	response, err := tunnel.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		reason := response.Header.Get("X-Adit-Reason")
		return outcome{exitStatus, fmt.Errorf("status %d %s", response.StatusCode, reason)}
	}
	_, err = io.Copy(down, response.Body)
	return err
}

// classify gives an error its exit code.
func classify(err error) error {
	var reset http2.StreamError
	var special outcome
	switch {
	case err == nil, errors.As(err, &special):
		return err
	case errors.As(err, &reset):
		return outcome{exitReset, fmt.Errorf("stream reset: %v", reset.Code)}
	default:
		return outcome{exitRefused, err}
	}
}

func plainBytes(socket net.Conn) error {
	if _, err := io.WriteString(socket, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(socket)
	return outcome{exitRefused, fmt.Errorf("hung up on plain bytes after %d bytes: %v", len(answer), err)}
}
