"""What a verifier needs besides the quote: CRLs, TCB info and QE identity, and the bundles they travel in."""
