package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"

	"golang.org/x/net/http2"
)

type server struct {
	target, bad string
	status      int
	rstCode     uint
	afterData   bool
	tls         *tls.Config
}

func runServer(args []string) error {
	var s server
	var names proofFlags
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	names.register(flags)
	listen := flags.String("listen", "127.0.0.1:0", "`host:port` to listen on; the port that was got is printed")
	flags.StringVar(&s.target, "target", "", "`host:port` to forward streams to; none: echo them")
	flags.IntVar(&s.status, "status", http.StatusOK, "answer each CONNECT with this status")
	flags.StringVar(&s.bad, "bad", "", "misbehave: expired, two-sans, unknown-issuer, wrong-trust-domain, rst-code, truncate")
	flags.UintVar(&s.rstCode, "rst-code", 8, "error code for --bad rst-code")
	flags.BoolVar(&s.afterData, "after-data", false, "with --bad rst-code and truncate, break off once data came")
	if err := flags.Parse(args); err != nil {
		return err
	}
	proof, err := names.load(s.bad)
	if err != nil {
		return err
	}
	if s.tls, err = proof.serverConfig(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	log.SetFlags(0)
	log.SetOutput(os.Stdout)
	log.Printf("listening %s", listener.Addr())
	// Whoever started this process holds its standard input; when that ends, so does this.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		socket, err := listener.Accept()
		if err != nil {
			return err
		}
		go s.serve(socket)
	}
}

func (s *server) serve(socket net.Conn) {
	defer socket.Close()
	secure := tls.Server(socket, s.tls)
	if err := secure.Handshake(); err != nil {
		log.Printf("refused: %v", err)
		return
	}
	if s.bad == badRSTCode || s.bad == badTruncate {
		if err := s.misbehave(socket, secure); err != nil {
			log.Printf("tunnel ended: %v", err)
		}
		return
	}
	peer := secure.ConnectionState().PeerCertificates[0].URIs[0]
	options := &http2.ServeConnOpts{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.connect(w, r, peer)
	})}
	(&http2.Server{MaxConcurrentStreams: 256}).ServeConn(secure, options)
}

func (s *server) connect(w http.ResponseWriter, r *http.Request, peer *url.URL) {
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	log.Printf("connect %s from %s for %s", r.Host, peer, r.Header.Get("Forwarded"))
	if s.status != http.StatusOK {
		w.WriteHeader(s.status)
		return
	}
	flush := w.(http.Flusher).Flush
	if s.target == "" {
		w.WriteHeader(http.StatusOK)
		flush()
		if err := copyFlushing(w, flush, r.Body); err != nil {
			abort("echo", err)
		}
		return
	}
	target, err := net.Dial("tcp", s.target)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer target.Close()
	w.WriteHeader(http.StatusOK)
	flush()
	up := make(chan error, 1)
	go func() {
		_, err := io.Copy(target, r.Body)
		if closing := target.(*net.TCPConn).CloseWrite(); err == nil {
			err = closing
		}
		up <- err
	}()
	down := copyFlushing(w, flush, target)
	for _, err := range []error{down, <-up} {
		if err != nil {
			abort("forward", err)
		}
	}
}

// abort resets the stream: returning would end it cleanly.
func abort(what string, err error) {
	log.Printf("%s: %v", what, err)
	panic(http.ErrAbortHandler)
}

func copyFlushing(w io.Writer, flush func(), from io.Reader) error {
	buffer := make([]byte, 32<<10)
	for {
		read, err := from.Read(buffer)
		if read > 0 {
			if _, err := w.Write(buffer[:read]); err != nil {
				return err
			}
			flush()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// misbehave accepts each stream, sends half a message, and breaks it off.
func (s *server) misbehave(socket net.Conn, secure *tls.Conn) error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(secure, preface); err != nil {
		return err
	}
	peer := newRaw(secure)
	if err := peer.WriteSettings(); err != nil {
		return err
	}
	for {
		frame, err := peer.next()
		if err != nil {
			return err
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if err := peer.head(frame.StreamID, false, ":status", fmt.Sprint(http.StatusOK)); err != nil {
				return err
			}
			if err := peer.WriteData(frame.StreamID, false, []byte("half a mess")); err != nil {
				return err
			}
			if s.afterData {
				continue
			}
		case *http2.DataFrame:
			if !s.afterData {
				continue
			}
		default:
			continue
		}
		if s.bad == badTruncate {
			return socket.Close()
		}
		if err := peer.WriteRSTStream(frame.Header().StreamID, http2.ErrCode(s.rstCode)); err != nil {
			return err
		}
	}
}
