"""The pages of a hub for people: lists, models, datasets, files, history, comparison, previews and try it.

`pages.Pages` holds what they share and makes the routes. Pages are rendered on the server and work without scripts,
except that trying a model shows its answer without loading the page anew where scripts run. Every page has a policy
that lets nothing in it reach another host; pages that show what users wrote run no scripts at all.
"""
