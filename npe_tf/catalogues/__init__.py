"""Files of haloes as other codes write them: columns, units and what the headers say.

`npe_tf.catalogue.Catalogue.read` is the way in; this package knows nothing of a catalogue. Each
format has a module whose ``read`` returns a `npe_tf.catalogues.table.HaloTable`: numbers as they
are in the file, with the units that the file states.
"""
