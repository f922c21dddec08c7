// hbone-go is an HBONE peer made of Go's own TLS and HTTP/2: it shares no line with adit, so where the two agree they
// agree about the protocol. It opens CONNECT streams, accepts them, mints certificates, and can misbehave.
//
//	hbone-go mint   --ca FILE --id SPIFFE-ID --out DIR [--bad KIND]
//	hbone-go client --addr HOST:PORT --authority IP:PORT --expect SPIFFE-ID (--ca FILE --id SPIFFE-ID | --cert FILE --key FILE --roots FILE)
//	hbone-go server --listen HOST:PORT                                     (--ca FILE --id SPIFFE-ID | --cert FILE --key FILE --roots FILE)
//
// Exit codes: 0 all went well; 1 something else failed; 2 usage; 3 the CONNECT was answered with a status other than 200;
// 4 the stream was reset; 5 the tunnel was refused or broke.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

const (
	exitFailed  = 1
	exitUsage   = 2
	exitStatus  = 3
	exitReset   = 4
	exitRefused = 5
)

// outcome is an error that has an exit code of its own.
type outcome struct {
	code int
	err  error
}

func (o outcome) Error() string { return o.err.Error() }
func (o outcome) Unwrap() error { return o.err }

func main() {
	commands := map[string]func([]string) error{"client": runClient, "mint": runMint, "server": runServer}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: hbone-go client|mint|server [flags]; --help after a command lists its flags")
		os.Exit(exitUsage)
	}
	err := commands[os.Args[1]](os.Args[2:])
	var special outcome
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, &special):
		fmt.Fprintln(os.Stderr, "hbone-go:", err)
		os.Exit(special.code)
	default:
		fmt.Fprintln(os.Stderr, "hbone-go:", err)
		os.Exit(exitFailed)
	}
}

func usage(format string, args ...any) error {
	return outcome{exitUsage, fmt.Errorf(format, args...)}
}
