"""What every room of the package uses: files written whole, what differs, sizes, locks, cores, progress."""
