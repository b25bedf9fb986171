"""The demo checkpoint's curve, ``s1 evaluate`` without a command: its settings, bars, tables and figure."""
