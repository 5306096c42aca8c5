"""What is learnt: features, networks, the loss, training, walking forward."""
