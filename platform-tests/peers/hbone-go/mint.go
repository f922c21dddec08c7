package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// authority signs certificates; it's read from a PEM file of a root certificate and its PKCS #8 key.
type authority struct {
	root *x509.Certificate
	key  crypto.Signer
}

// The certificates that a peer must not take, by the names of --bad.
const (
	badExpired          = "expired"
	badTwoSANs          = "two-sans"
	badUnknownIssuer    = "unknown-issuer"
	badWrongTrustDomain = "wrong-trust-domain"
)

func runMint(args []string) error {
	flags := flag.NewFlagSet("mint", flag.ContinueOnError)
	caFile := flags.String("ca", "", "PEM `file` of the root certificate and its key")
	id := flags.String("id", "", "SPIFFE `id` to certify")
	out := flags.String("out", ".", "`folder` that gets cert.pem, key.pem and roots.pem")
	ttl := flags.Duration("ttl", time.Hour, "lifetime")
	bad := flags.String("bad", "", "mint a wrong one: expired, two-sans, unknown-issuer, wrong-trust-domain")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ca, err := loadAuthority(*caFile)
	if err != nil {
		return err
	}
	certificate, err := ca.mint(*id, *ttl, *bad)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return err
	}
	files := map[string]*pem.Block{
		"cert.pem":  {Type: "CERTIFICATE", Bytes: certificate.Certificate[0]},
		"key.pem":   {Type: "PRIVATE KEY", Bytes: key},
		"roots.pem": {Type: "CERTIFICATE", Bytes: ca.root.Raw},
	}
	for name, block := range files {
		if err := os.WriteFile(filepath.Join(*out, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func loadAuthority(path string) (*authority, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the authority: %w", err)
	}
	ca := new(authority)
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			if ca.root, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, fmt.Errorf("%s: root certificate: %w", path, err)
			}
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: private key: %w", path, err)
			}
			signer, ok := key.(crypto.Signer)
			if !ok {
				return nil, fmt.Errorf("%s: expected a signing key, got %T", path, key)
			}
			ca.key = signer
		}
	}
	if ca.root == nil || ca.key == nil {
		return nil, fmt.Errorf("%s: expected a CERTIFICATE and a PRIVATE KEY", path)
	}
	return ca, nil
}

// mint issues a certificate for id, or one that is wrong in the way bad says.
func (ca *authority) mint(id string, ttl time.Duration, bad string) (tls.Certificate, error) {
	uri, err := url.Parse(id)
	if err != nil || uri.Scheme != "spiffe" {
		return tls.Certificate{}, usage("expected a SPIFFE id, got %q", id)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetInt64(now.UnixNano()),
		NotBefore:    now.Add(-time.Minute),
		NotAfter:     now.Add(ttl),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:         []*url.URL{uri},
	}
	signer := ca
	switch bad {
	case badExpired:
		template.NotBefore, template.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour)
	case badTwoSANs:
		second := *uri
		second.Path += "-2"
		template.URIs = append(template.URIs, &second)
	case badUnknownIssuer:
		if signer, err = newAuthority(ca.root.Subject); err != nil {
			return tls.Certificate{}, err
		}
	case badWrongTrustDomain:
		other := *uri
		other.Host = "not-" + uri.Host
		template.URIs = []*url.URL{&other}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.root, key.Public(), signer.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// newAuthority is another root of the same name, which nobody trusts.
func newAuthority(subject pkix.Name) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               subject,
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	return &authority{root, key}, err
}

// proof is what this side shows and whom it trusts.
type proof struct {
	certificate *tls.Certificate
	roots       *x509.CertPool
}

// proofFlags are the two ways to name a proof: an authority that mints it, or files.
type proofFlags struct {
	ca, id, cert, key, roots string
}

func (p *proofFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&p.ca, "ca", "", "PEM `file` of an authority that mints this side's certificate")
	flags.StringVar(&p.id, "id", "", "this side's SPIFFE `id`, with --ca")
	flags.StringVar(&p.cert, "cert", "", "PEM `file` of this side's certificate chain")
	flags.StringVar(&p.key, "key", "", "PEM `file` of its key")
	flags.StringVar(&p.roots, "roots", "", "PEM `file` of the trusted roots")
}

func (p *proofFlags) load(bad string) (*proof, error) {
	roots := x509.NewCertPool()
	if p.ca != "" {
		ca, err := loadAuthority(p.ca)
		if err != nil {
			return nil, err
		}
		certificate, err := ca.mint(p.id, time.Hour, bad)
		roots.AddCert(ca.root)
		return &proof{&certificate, roots}, err
	}
	certificate, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, fmt.Errorf("this side's certificate: %w", err)
	}
	text, err := os.ReadFile(p.roots)
	if err != nil {
		return nil, fmt.Errorf("trusted roots: %w", err)
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New("trusted roots: expected PEM certificates")
	}
	return &proof{&certificate, roots}, nil
}
