"""What a recipe will cost, told before anything is run: steps, passes, tokens, floating-point work, time and memory."""
