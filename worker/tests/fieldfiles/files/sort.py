def sort_by_price(orders):
	return sorted(orders, key=lambda order: order["price"])
