"""The emulated platform's trust: its PKI, its quoting enclave and the quote generation service."""
