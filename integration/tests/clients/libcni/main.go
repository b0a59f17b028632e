// One call of libcni, as a runtime makes it: main COMMAND LIST ID NETNS CAPABILITIES. The cache and the
// plugins' directories are where CNI_PATH and libcni's default say. What libcni returns is printed as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
)

const ifname = "eth0"

// Commands of newer versions of libcni are in files of their own.
type command func(context.Context, *libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) (interface{}, error)

var commands = map[string]command{
	"add": func(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (interface{}, error) {
		return cni.AddNetworkList(ctx, list, rt)
	},
	"check": func(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (interface{}, error) {
		return nil, cni.CheckNetworkList(ctx, list, rt)
	},
	"del": func(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (interface{}, error) {
		return nil, cni.DelNetworkList(ctx, list, rt)
	},
	// The capabilities of all plugins, which are asked for their versions.
	"validate": func(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, _ *libcni.RuntimeConf) (interface{}, error) {
		return cni.ValidateNetworkList(ctx, list)
	},
	"cached-result": func(_ context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (interface{}, error) {
		return cni.GetNetworkListCachedResult(list, rt)
	},
	// What was asked for; nothing where there is no attachment.
	"cached-request": func(_ context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (interface{}, error) {
		_, cached, err := cni.GetNetworkListCachedConfig(list, rt)
		if err != nil || cached == nil {
			return nil, err
		}
		return cached.CapabilityArgs, nil
	},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	name, file := args[0], args[1]
	call, known := commands[name]
	if !known {
		return fmt.Errorf("this libcni has no command %s", name)
	}
	list, err := libcni.ConfListFromFile(file)
	if err != nil {
		return err
	}
	rt := &libcni.RuntimeConf{ContainerID: args[2], NetNS: args[3], IfName: ifname}
	if err := json.Unmarshal([]byte(args[4]), &rt.CapabilityArgs); err != nil {
		return err
	}
	cni := libcni.NewCNIConfig(filepath.SplitList(os.Getenv("CNI_PATH")), nil)
	answer, err := call(context.Background(), cni, list, rt)
	if err != nil || answer == nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
}
