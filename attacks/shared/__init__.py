"""What several probes use, one concept a module, under the field's word for it. No probe lives here."""
