# Sourced by the build scripts. What this machine lacks is no fault of the build: it has an exit code of its own, so that
# `npm test` leaves out what cannot be built here, and fails over what should have been.
exit_lack=75 # EX_TEMPFAIL of sysexits.h

lack() { # NAME, words
  printf '[%s] %s\n' "$1" "$2" >&2
  exit "$exit_lack"
}

# Of a `go build` that failed, in its directory: whether there was nothing to build from. Only asked then: all modules of a
# go.mod are more than a build needs, and a warm cache has those alone.
go_modules_lack() { ! go mod download; }

# Of the log of apt, mmdebstrap or npm: whether a package could not be fetched.
download_failed() { # LOG
  grep -Eq 'Failed to fetch|Unable to fetch|Temporary failure resolving|Could not (resolve|connect)|npm (ERR!|error) code (E(NOTFOUND|AI_AGAIN|CONN[A-Z]+|TIMEDOUT)|ERR_SOCKET_TIMEOUT)' "$1"
}
