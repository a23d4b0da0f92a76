"""The distribution's programs and packages in a private root: signature-checked, not installed."""
