"""The page at `/`: models, a form to try each, plots. Its parts lie beside this file; `document` makes one of them."""
