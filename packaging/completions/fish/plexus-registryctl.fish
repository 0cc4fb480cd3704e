# SPDX-License-Identifier: AGPL-3.0-only
#
# Completion of plexus-registryctl for fish: the program itself says what fits, names of backends
# included, which it asks the registry for. Each line of its answer is: kind, value, tab, help.

function _plexus_registryctl
    set -lx _PLEXUS_REGISTRYCTL_COMPLETE fish_complete
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD (commandline -ct)
    for answer in (plexus-registryctl 2>/dev/null)
        set -l parts (string split --max 1 , -- $answer)
        switch $parts[1]
            case dir
                __fish_complete_directories $COMP_CWORD
            case file
                __fish_complete_path $COMP_CWORD
            case plain
                echo $parts[2]
        end
    end
end

complete --no-files --command plexus-registryctl --arguments "(_plexus_registryctl)"
