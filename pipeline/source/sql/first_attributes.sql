,
           -- Of several rows of one pair the one of the first list, and in it the smallest, however they are read.
           min({'list': list_index, 'values': attributes})['values'] AS attributes,
           min(attributes) IS DISTINCT FROM max(attributes) AS conflicting