package cli

import (
	"cmp"
	"context"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/testbed"
)

func (a *app) imagesCommand() *cobra.Command {
	list := &cobra.Command{
		Use:   "list",
		Short: "Images that a testbed on kind needs, and where they are",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			images, err := a.images(ctx, a.options())
			if err = a.notUp(caused(ctx, err), "images", "`testbed doctor` says what this host lacks"); err != nil {
				return err
			}
			if a.json() {
				if images == nil {
					images = []testbed.Image{}
				}
				return a.printJSON(images)
			}
			rows := [][]string{}
			for _, i := range images {
				rows = append(rows, []string{i.Ref, cmp.Or(i.Source, "not here"), size(i.Bytes)})
			}
			a.printTable([]string{"IMAGE", "SOURCE", "SIZE"}, rows)
			return nil
		},
	}
	build := &cobra.Command{
		Use:   "build node",
		Short: "Build the image of kind's nodes, for hosts without a registry",
		Long: `build makes the image of kind's nodes out of Debian packages and Go modules, unless the
engine has it. The first time takes ten to twenty minutes on two cores; an interrupted build continues.`,
		Args:      exactly("node"),
		ValidArgs: []string{"node"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "node" {
				return usage("run `testbed images build node`", "images build: there is no image %q to build", args[0])
			}
			var image *testbed.Image
			err := a.work(cmd.Context(), func(ctx context.Context, o testbed.Options) (err error) {
				image, err = a.buildNode(ctx, o)
				return err
			})
			if err = a.notUp(err, "the node image could not be built", "read what is said above; `testbed images build node` continues"); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(image)
			}
			a.printf("%s\n", image.Ref)
			return nil
		},
	}
	return group(&cobra.Command{Use: "images", Short: "Images of testbeds on kind"}, list, build)
}

func (a *app) cacheCommand() *cobra.Command {
	prune := &cobra.Command{
		Use:   "prune",
		Short: "Remove what was built or pulled for testbeds",
		Long:  "prune removes the cache, and the images in the container engine that were built for testbeds.\nIt refuses while a testbed is there. The next `up` builds anew, which takes some minutes.",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var bytes int64
			err := a.work(cmd.Context(), func(ctx context.Context, o testbed.Options) (err error) {
				bytes, err = a.prune(ctx, o)
				return err
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]int64{"bytes": bytes})
			}
			a.printf("removed %s\n", size(bytes))
			return nil
		},
	}
	return group(&cobra.Command{Use: "cache", Short: "What testbeds leave behind to be quick the next time"}, prune)
}
