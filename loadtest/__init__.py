"""Load as clients make it: `make loadtest`; README.md says what there is."""
