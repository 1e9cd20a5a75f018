"""What every room of the package uses: small files written whole, locks, progress."""
