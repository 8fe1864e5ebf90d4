"""The shell around the core: sockets, files, clocks. It has no opinions."""
