package bench

import "github.com/spf13/cobra"

func soakCommand() *cobra.Command { return &cobra.Command{Use: "soak-memory"} }
