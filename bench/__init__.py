"""fastgw beside its peers on one machine. Knows fastgw only as a command and a port."""
