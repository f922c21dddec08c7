package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
)

// clientConfig shows the proof and wants exactly the identity expect at the other end.
func (p *proof) clientConfig(serverName, expect string) *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		ServerName: serverName,
		// Names in certificates are SPIFFE ids here, which VerifyConnection looks at.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			uri, err := p.verify(state, x509.ExtKeyUsageServerAuth)
			if err == nil && uri.String() != expect {
				err = fmt.Errorf("expected %s, got %s", expect, uri)
			}
			return err
		},
	}
	if p.certificate != nil {
		config.Certificates = []tls.Certificate{*p.certificate}
	}
	return config
}

// serverConfig wants a client of this side's own trust domain.
func (p *proof) serverConfig() (*tls.Config, error) {
	leaf, err := x509.ParseCertificate(p.certificate.Certificate[0])
	if err != nil {
		return nil, err
	}
	if len(leaf.URIs) == 0 {
		return nil, errors.New("this side's certificate names nobody")
	}
	trustDomain := leaf.URIs[0].Host
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		Certificates:           []tls.Certificate{*p.certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			uri, err := p.verify(state, x509.ExtKeyUsageClientAuth)
			if err == nil && uri.Host != trustDomain {
				err = fmt.Errorf("expected a workload of %s, got %s", trustDomain, uri)
			}
			return err
		},
	}, nil
}

// verify finds a path to a trusted root and the one SPIFFE id of the leaf.
func (p *proof) verify(state tls.ConnectionState, usage x509.ExtKeyUsage) (*url.URL, error) {
	if len(state.PeerCertificates) == 0 {
		return nil, errors.New("the peer sent no certificate")
	}
	leaf := state.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, certificate := range state.PeerCertificates[1:] {
		intermediates.AddCert(certificate)
	}
	options := x509.VerifyOptions{Roots: p.roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}}
	if _, err := leaf.Verify(options); err != nil {
		return nil, err
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].Scheme != "spiffe" {
		return nil, fmt.Errorf("expected one SPIFFE id, got %v", leaf.URIs)
	}
	return leaf.URIs[0], nil
}
