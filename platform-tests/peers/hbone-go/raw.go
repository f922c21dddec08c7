package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw speaks HTTP/2 frame by frame, for what a well-behaved library won't do.
type raw struct {
	*http2.Framer
	encoder *hpack.Encoder
	block   *bytes.Buffer
}

func newRaw(stream io.ReadWriter) *raw {
	block := new(bytes.Buffer)
	framer := http2.NewFramer(stream, stream)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return &raw{framer, hpack.NewEncoder(block), block}
}

func (r *raw) head(stream uint32, end bool, fields ...string) error {
	r.block.Reset()
	for at := 0; at < len(fields); at += 2 {
		if err := r.encoder.WriteField(hpack.HeaderField{Name: fields[at], Value: fields[at+1]}); err != nil {
			return err
		}
	}
	first, block := cut(r.block.Bytes())
	param := http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndHeaders: len(block) == 0, EndStream: end}
	if err := r.WriteHeaders(param); err != nil {
		return err
	}
	for len(block) > 0 {
		var part []byte
		part, block = cut(block)
		if err := r.WriteContinuation(stream, len(block) == 0, part); err != nil {
			return err
		}
	}
	return nil
}

// cut splits off as much of a header block as fits a frame.
func cut(block []byte) (first, rest []byte) {
	const most = 16384
	if len(block) > most {
		return block[:most], block[most:]
	}
	return block, nil
}

// next gives the next frame that isn't the connection's housekeeping, which it answers.
func (r *raw) next() (http2.Frame, error) {
	for {
		frame, err := r.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = r.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = r.WritePing(true, frame.Data)
			}
		case *http2.WindowUpdateFrame:
		default:
			return frame, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// misbehave opens one stream as --bad says and reports how the peer took it.
func (c *client) misbehave(socket net.Conn, secure *tls.Conn) error {
	if _, err := io.WriteString(secure, http2.ClientPreface); err != nil {
		return err
	}
	peer := newRaw(secure)
	if err := peer.WriteSettings(); err != nil {
		return err
	}
	authority, baggage := c.authority, ""
	switch c.bad {
	case badMalformedAuthority:
		authority = "not an address:80"
	case badOversizedConnect:
		baggage = strings.Repeat("x", 64<<10)
	}
	fields := []string{":method", "CONNECT", ":authority", authority, "forwarded", fmt.Sprintf("for=%q", c.forwarded)}
	if baggage != "" {
		fields = append(fields, "baggage", baggage)
	}
	if err := peer.head(1, false, fields...); err != nil {
		return err
	}
	for {
		frame, err := peer.next()
		if err != nil {
			return outcome{exitRefused, fmt.Errorf("tunnel ended: %w", err)}
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status := frame.PseudoValue("status"); status != "200" {
				return outcome{exitStatus, fmt.Errorf("status %s", status)}
			}
			return c.breakOff(socket, secure, peer)
		case *http2.RSTStreamFrame:
			return outcome{exitReset, fmt.Errorf("stream reset: %v", frame.ErrCode)}
		case *http2.GoAwayFrame:
			return outcome{exitRefused, fmt.Errorf("tunnel refused: %v", frame.ErrCode)}
		}
	}
}

// breakOff sends half a message and ends the stream other than by END_STREAM.
func (c *client) breakOff(socket net.Conn, secure *tls.Conn, peer *raw) error {
	if err := peer.WriteData(1, false, []byte("half a mess")); err != nil {
		return err
	}
	return end(c.bad, http2.ErrCode(c.rstCode), socket, secure, peer, 1)
}

// end resets the stream, or drops the TCP connection under TLS without close_notify.
func end(bad string, code http2.ErrCode, socket net.Conn, secure *tls.Conn, peer *raw, stream uint32) error {
	switch bad {
	case badRSTCode:
		if err := peer.WriteRSTStream(stream, code); err != nil {
			return err
		}
		// An orderly close, so that the reset is all that went wrong.
		return secure.Close()
	case badTruncate:
		return socket.Close()
	}
	return errors.New("nothing was to be broken")
}
