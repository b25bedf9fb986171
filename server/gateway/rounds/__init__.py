"""Budgets before engines without our plugin: s1's procedure, round after round."""
