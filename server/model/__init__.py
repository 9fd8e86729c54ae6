"""What the console is about: frozen values and the rules that hold for them. Pure, no I/O."""
