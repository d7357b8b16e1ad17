"""The learner: objective, shaping, policy and the LightningModule that joins them."""
