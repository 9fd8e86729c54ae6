<?php
// libssh2 as PHP has it: php libssh2.php PORT PASSWORD|"" KEY|"" IDLE_SECONDS
[, $port, $password, $key, $idle] = $argv;
$connection = @ssh2_connect("127.0.0.1", (int)$port);
if (!$connection) {
    echo "no connection\n";
    exit(1);
}
$used = ssh2_methods_negotiated($connection);
echo "negotiated {$used['kex']} {$used['hostkey']} {$used['client_to_server']['mac']}\n";
$in = $password !== "" ? ssh2_auth_password($connection, "admin", $password)
                       : ssh2_auth_pubkey_file($connection, "admin", "$key.pub", $key);
if (!$in) {
    exit(1);
}
sleep((int)$idle);
function told($stream): void {
    stream_set_blocking($stream, true);
    echo stream_get_contents($stream);
    echo "status ", stream_get_meta_data($stream)["exit_status"], "\n";
}
told(ssh2_exec($connection, "nosuch"));
$shell = ssh2_shell($connection, "vt100");
fwrite($shell, "whoami\nexit 3\n");
told($shell);
