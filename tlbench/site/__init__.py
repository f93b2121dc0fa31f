"""The published site: static pages over asv's stored results. `asv publish` calls :func:`tlbench.site.publish.publish`."""
