"""What hessflat's own parts cost: products, re-orthogonalisation, use of the device."""
