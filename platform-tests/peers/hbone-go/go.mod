// Versions that Debian 12's own Go, 1.19, can build.
module adit.dev/platform-tests/peers/hbone-go

go 1.19

require golang.org/x/net v0.33.0

require golang.org/x/text v0.21.0 // indirect
