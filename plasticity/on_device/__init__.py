"""Networks as a device would run them: with noise, and with finitely many shots."""
